"""FVC: from archives of user-generated videos to a served verdict, with evidence."""
